// Shows Gaussians in WebGL 2 as evlm.scene.raster draws them: EWA with a blur of .3 pixels, opacity to .99, far ones first.
"use strict";
const ROW = 32, TEXELS = 3, ACROSS = 512;
const scene = JSON.parse(document.getElementById("scene").textContent);
const canvas = document.querySelector("canvas");
const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
const say = (text) => { document.getElementById("said").textContent = text; };

const VERTEX = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D rows; uniform mat4 view; uniform vec2 focal, size;
in uint row; out vec2 place; out vec4 paint;
void main() {
  ivec2 at = ivec2(int(row % ${ACROSS}u) * ${TEXELS}, int(row / ${ACROSS}u));
  uvec4 first = texelFetch(rows, at, 0);
  vec4 a = uintBitsToFloat(texelFetch(rows, at + ivec2(1, 0), 0)), b = uintBitsToFloat(texelFetch(rows, at + ivec2(2, 0), 0));
  vec3 p = (view * vec4(uintBitsToFloat(first.xyz), 1.)).xyz;
  gl_Position = vec4(0., 0., 2., 1.);
  if (p.z < .01) return;
  paint = vec4(first.w & 255u, (first.w >> 8) & 255u, (first.w >> 16) & 255u, first.w >> 24) / 255.;
  if (paint.a < 1. / 255.) return;
  vec2 limit = 1.3 * .5 * size / focal, t = clamp(p.xy / p.z, -limit, limit);
  mat3 turn = mat3(view), cov = mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y);
  mat3 J = mat3(focal.x / p.z, 0., 0., 0., focal.y / p.z, 0., -focal.x * t.x / p.z, -focal.y * t.y / p.z, 0.);
  mat3 M = J * turn, flat2 = M * cov * transpose(M);
  float xx = flat2[0][0] + .3, xy = flat2[0][1], yy = flat2[1][1] + .3;
  float mean = .5 * (xx + yy), apart = sqrt(max(0., .25 * (xx - yy) * (xx - yy) + xy * xy));
  vec2 axis = apart < 1e-9 ? vec2(1., 0.) : normalize(abs(xy) > 1e-9 ? vec2(mean + apart - yy, xy) : (xx >= yy ? vec2(1., 0.) : vec2(0., 1.)));
  float reach = min(3.33, sqrt(2. * log(255. * paint.a)));
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2. - 1.;
  place = corner * reach;
  vec2 pixel = focal * p.xy / p.z + axis * place.x * sqrt(mean + apart) + vec2(-axis.y, axis.x) * place.y * sqrt(max(mean - apart, 1e-9));
  vec2 shown = pixel / (.5 * size);
  gl_Position = vec4(shown.x, -shown.y, 0., 1.);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 place; in vec4 paint; out vec4 colour;
void main() {
  float alpha = min(.99, paint.a) * exp(-.5 * dot(place, place));
  if (alpha < 1. / 255.) discard;
  colour = vec4(paint.rgb * alpha, alpha);
}`;

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// The rows of a .splat (position, scale, colour and opacity, rotation) -> positions and the texture of rows.
function loaded(bytes) {
  const count = bytes.length / ROW, floats = new Float32Array(bytes.buffer), words = new Uint32Array(bytes.buffer);
  const high = Math.ceil(count / ACROSS), texture = new Uint32Array(ACROSS * TEXELS * high * 4);
  const numbers = new Float32Array(texture.buffer), places = new Float32Array(3 * count);
  function put(i, place, turn) {
    const f = 8 * i, to = 12 * i;
    let [w, x, y, z] = turn;
    const length = Math.hypot(w, x, y, z) || 1;
    w /= length; x /= length; y /= length; z /= length;
    const m = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)].map((v, k) => v * floats[f + 3 + (k % 3)]);
    const cov = (r, c) => m[3 * r] * m[3 * c] + m[3 * r + 1] * m[3 * c + 1] + m[3 * r + 2] * m[3 * c + 2];
    for (let k = 0; k < 3; k++) numbers[to + k] = places[3 * i + k] = place[k];
    texture[to + 3] = words[f + 6];
    numbers.set([cov(0, 0), cov(0, 1), cov(0, 2), cov(1, 1), cov(1, 2), cov(2, 2)], to + 4);
  }
  for (let i = 0; i < count; i++) {
    const turn = [0, 1, 2, 3].map((k) => (bytes[ROW * i + 28 + k] - 128) / 128);
    put(i, floats.subarray(8 * i, 8 * i + 3), turn);
  }
  return { count, high, texture, places, put };
}

// A scene that moves: a function that puts its moving rows where they are at a time in 0..1.
function moves(motion, put) {
  const which = new Uint32Array(bytesOf(motion.which).buffer), ways = new Float32Array(bytesOf(motion.ways).buffer);
  const n = which.length;
  return (time) => {
    const at = time * (motion.times - 1), before = Math.min(Math.floor(at), motion.times - 2), share = at - before;
    for (let j = 0; j < n; j++) {
      const a = 7 * (before * n + j), b = a + 7 * n, mixed = new Array(7);
      let near = 0;
      for (let k = 3; k < 7; k++) near += ways[a + k] * ways[b + k];
      for (let k = 0; k < 7; k++) mixed[k] = (1 - share) * ways[a + k] + share * (k > 2 && near < 0 ? -1 : 1) * ways[b + k];
      put(which[j], mixed, mixed.slice(3));
    }
  };
}

function compiled() {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "row");
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

// Far ones first: a counting sort of 65,536 depths.
function sorted(places, count, v) {
  const depth = new Float32Array(count);
  let least = Infinity, most = -Infinity;
  for (let i = 0; i < count; i++) {
    const d = v[2] * places[3 * i] + v[6] * places[3 * i + 1] + v[10] * places[3 * i + 2];
    depth[i] = d;
    if (d < least) least = d;
    if (d > most) most = d;
  }
  const scale = 65535 / (most - least || 1), starts = new Uint32Array(65537), order = new Uint32Array(count);
  const bucket = (i) => 65535 - ((depth[i] - least) * scale | 0);
  for (let i = 0; i < count; i++) starts[bucket(i) + 1]++;
  for (let b = 0; b < 65536; b++) starts[b + 1] += starts[b];
  for (let i = 0; i < count; i++) order[starts[bucket(i)]++] = i;
  return order;
}

const minus = (a, b) => a.map((v, k) => v - b[k]), dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const n = Math.hypot(...a) || 1; return a.map((v) => v / n); };
const along = (a, b, n) => a.map((v, k) => v + n * b[k]);
function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), w = cross(axis, v), d = dot(axis, v) * (1 - c);
  return v.map((x, k) => x * c + w[k] * s + axis[k] * d);
}
// OpenCV: x to the right, y down, z forward; column by column, as WebGL takes it.
function viewOf({ eye, target, up }) {
  const z = unit(minus(target, eye)), x = unit(cross(z, up)), y = cross(z, x);
  return [x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, -dot(x, eye), -dot(y, eye), -dot(z, eye), 1];
}

function start() {
  if (!gl) { say("This browser has no WebGL 2; open the page in another one."); return; }
  const { count, high, texture, places, put } = loaded(bytesOf(scene.rows));
  if (high > gl.getParameter(gl.MAX_TEXTURE_SIZE)) { say(`${count} Gaussians are more than this browser can show.`); return; }
  const program = compiled();
  gl.useProgram(program);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32UI, ACROSS * TEXELS, high, 0, gl.RGBA_INTEGER, gl.UNSIGNED_INT, texture);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.enableVertexAttribArray(0);
  gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(0, 1);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  gl.clearColor(...scene.background, 1);
  const named = (name) => gl.getUniformLocation(program, name);
  const [atView, atFocal, atSize] = ["view", "focal", "size"].map(named);
  const begin = () => structuredClone(scene.camera);
  let camera = begin(), waiting = false;

  function draw() {
    waiting = false;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const view = viewOf(camera), focal = camera.focal * canvas.height;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniformMatrix4fv(atView, false, view);
    gl.uniform2f(atFocal, focal, focal);
    gl.uniform2f(atSize, canvas.width, canvas.height);
    gl.bufferData(gl.ARRAY_BUFFER, sorted(places, count, view), gl.DYNAMIC_DRAW);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
  }
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  function orbit(dx, dy) {
    const up = unit(camera.up);
    let out = turned(minus(camera.eye, camera.target), up, -dx);
    const side = unit(cross(unit(out), up)), raised = turned(out, side, dy);
    if (Math.abs(dot(unit(raised), up)) < 0.99) out = raised;
    camera.eye = along(camera.target, out, 1);
  }
  function pan(dx, dy) {
    const v = viewOf(camera), far = Math.hypot(...minus(camera.eye, camera.target)) / camera.focal;
    for (const name of ["eye", "target"]) camera[name] = along(along(camera[name], [v[0], v[4], v[8]], -dx * far), [v[1], v[5], v[9]], -dy * far);
  }
  const zoom = (factor) => { camera.eye = along(camera.target, minus(camera.eye, camera.target), factor); };

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (e) => {
    const before = fingers.get(e.pointerId);
    if (!before) return;
    const dx = (e.clientX - before.clientX) / canvas.clientHeight, dy = (e.clientY - before.clientY) / canvas.clientHeight;
    const other = [...fingers.values()].find((each) => each.pointerId !== e.pointerId);
    if (other) {
      const apart = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY) || 1;
      zoom(apart(before) / apart(e));
      pan(dx / 2, dy / 2);
    } else if (e.shiftKey || e.buttons & 6) pan(dx, dy);
    else orbit(4 * dx, 4 * dy);
    fingers.set(e.pointerId, e);
    soon();
  });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY / 500)))); soon(); }, { passive: false });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("dblclick", () => { camera = begin(); soon(); });
  window.addEventListener("resize", soon);
  if (scene.motion) play(scene.motion, put, () => {
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ACROSS * TEXELS, high, gl.RGBA_INTEGER, gl.UNSIGNED_INT, texture);
    soon();
  });
  draw();
}

// Time goes from 0 to 1 and begins again; the slider holds it, a press of the space bar stops it and lets it go on.
function play(motion, put, changed) {
  const to = moves(motion, put), slider = document.getElementById("time");
  let playing = !new URLSearchParams(location.search).has("time"), last = null;
  const show = (time) => { slider.value = time; to(time); changed(); };
  function step(now) {
    if (playing && last !== null) show((Number(slider.value) + (now - last) / 1000 / motion.seconds) % 1);
    last = now;
    requestAnimationFrame(step);
  }
  slider.hidden = false;
  slider.addEventListener("input", () => { playing = false; show(Number(slider.value)); });
  window.addEventListener("keydown", (e) => { if (e.key === " ") { e.preventDefault(); playing = !playing; } });
  show(Number(new URLSearchParams(location.search).get("time") || 0));
  requestAnimationFrame(step);
}
try { start(); } catch (error) { say(`The scene cannot be shown: ${error.message}`); }

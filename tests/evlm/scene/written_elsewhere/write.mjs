// npm install @playcanvas/splat-transform@2.7.1 @mkkellogg/gaussian-splats-3d@0.4.7 gsplat@1.2.9 three@0.158 --legacy-peer-deps
// node write.mjs theirs.ply OUT: what other programs make of this small scene of ours, and how splat-transform reads
// each (OUT/reading_NAME.ply; their columns lie in readings.npz). The programs are MIT; what they wrote is ours.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

globalThis.window ??= { navigator: {}, innerWidth: 1, innerHeight: 1, document: {}, setTimeout };
globalThis.self ??= globalThis;
const [scene, out] = process.argv.slice(2);
mkdirSync(out, { recursive: true });
const cli = "node_modules/@playcanvas/splat-transform/bin/cli.mjs";
const transform = (...words) => execFileSync("node", [cli, "-q", "-w", ...words]);

transform(scene, `${out}/theirs.compressed.ply`);
transform(scene, "--spz-version", "3", `${out}/three.spz`);
transform(scene, "--spz-version", "4", `${out}/four.spz`);

const { default: createSpz } = await import("@adobe/spz");
const spz = await createSpz();
const axes = spz.CoordinateSystem.RDF;
const cloud = spz.loadSpzFromBuffer(new Uint8Array(readFileSync(`${out}/three.spz`)), { to: axes });
writeFileSync(`${out}/two.spz`, spz.saveSpzToBuffer(cloud, { version: 2, from: axes, sh1Bits: 5, shRestBits: 4 }));

const bytes = readFileSync(scene);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const kk = await import("@mkkellogg/gaussian-splats-3d");
for (const level of [0, 1, 2]) {
  const rows = kk.PlyParser.parseToUncompressedSplatArray(buffer, 1);
  const generator = kk.SplatBufferGenerator.getStandardGenerator(1, level, 0, undefined, 3, 4); // buckets of 4
  const made = generator.generateFromUncompressedSplatArray(rows);
  writeFileSync(`${out}/level${level}.ksplat`, new Uint8Array(made.bufferData));
}

const gsplat = await import("gsplat");
const loaded = new gsplat.Scene();
gsplat.PLYLoader.LoadFromArrayBuffer(buffer, loaded);
writeFileSync(`${out}/gsplat.splat`, loaded.objects[0].data.serialize());

for (const name of ["theirs.compressed.ply", "two.spz", "three.spz", "four.spz", "gsplat.splat",
  "level0.ksplat", "level1.ksplat", "level2.ksplat"]) transform(`${out}/${name}`, `${out}/reading_${name}.ply`);

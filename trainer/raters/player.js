// Frames as a clip: pictures that take turns, with a scrubber. Several figures may share one.

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Player {
  constructor(images, urls, fps) {
    Object.assign(this, { images, urls, at: 0, playing: !still.matches });
    this.slider = Object.assign(document.createElement("input"), {
      type: "range", min: 0, max: Math.max(...urls.map((each) => each.length)) - 1, value: 0, ariaLabel: "frame",
    });
    this.label = document.createElement("output");
    this.bar = document.createElement("div");
    this.bar.className = "scrub";
    this.bar.append(this.slider, this.label);
    this.slider.addEventListener("input", () => { this.playing = false; this.show(Number(this.slider.value)); });
    this.timer = setInterval(() => {
      if (this.playing) this.show((this.at + 1) % (Number(this.slider.max) + 1));
    }, 1000 / Math.min(Math.max(fps || 4, 1), 12));
    this.show(0);
  }

  show(at) {
    this.at = at;
    this.slider.value = at;
    this.label.textContent = `${at + 1}/${Number(this.slider.max) + 1}`;
    this.images.forEach((image, which) => {
      image.src = this.urls[which][Math.min(at, this.urls[which].length - 1)];
    });
  }

  stop() { clearInterval(this.timer); }
}

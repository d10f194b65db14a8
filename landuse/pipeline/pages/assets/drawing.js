"use strict";

/* What both pages draw with: colours, places in words, the divider. */

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis

function packed(color) {
  return new Uint32Array(new Uint8Array([...color, 255]).buffer)[0];
}

function rampColor(share) {
  const place = share * (RAMP.length - 1);
  const index = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[index].map((low, i) => Math.round(low + (RAMP[index + 1][i] - low) * (place - index)));
}

function rampGradient() {
  return `linear-gradient(to right, ${RAMP.map(rgb).join()})`;
}

function lonLatText(lon, lat) {
  const degrees = (value, positive, negative) => `${Math.abs(value).toFixed(5)}° ${value < 0 ? negative : positive}`;
  return `${degrees(lat, "N", "S")}, ${degrees(lon, "E", "W")}`;
}

/* Lets a pointer and keys move a divider over a box. ``place`` tells where it is, 0 to 1, ``move`` puts it. */
function connectDivider(divider, box, place, move) {
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    const { left, width } = box.getBoundingClientRect();
    if (divider.hasPointerCapture(event.pointerId)) move((event.clientX - left) / width);
  });
  divider.addEventListener("keydown", (event) => {
    const places = {
      ArrowLeft: place() - 0.02,
      ArrowDown: place() - 0.02,
      ArrowRight: place() + 0.02,
      ArrowUp: place() + 0.02,
      Home: 0,
      End: 1,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    move(places[event.key]);
  });
}

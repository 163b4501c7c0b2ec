// Two things that HTML cannot do: show a slider's number while it moves, and draw a line around dots.
document.addEventListener("input", (event) => {
  const output = event.target.dataset && document.getElementById(event.target.dataset.output);
  if (output) output.textContent = event.target.value;
});

const map = document.getElementById("map");
if (map) {
  const lasso = document.getElementById("lasso");
  let points = null;
  const place = (event) => {
    const box = map.getBoundingClientRect();
    const inside = (share) => Math.min(Math.max(share, 0), 1);
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  };
  const draw = () => lasso.setAttribute("points", points.map(([x, y]) => `${100 * x},${100 * y}`).join(" "));
  map.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    map.setPointerCapture(event.pointerId);
    points = [place(event)];
    draw();
  });
  map.addEventListener("pointermove", (event) => {
    if (points && points.length < 400) {
      points.push(place(event));
      draw();
    }
  });
  map.addEventListener("pointerup", () => {
    const corners = points || [];
    points = null;
    if (corners.length < 3) return;
    const values = { points: corners.map(([x, y]) => `${x.toFixed(4)},${(1 - y).toFixed(4)}`).join(";") };
    htmx.ajax("GET", map.dataset.target, { target: "#region", values });
  });
}

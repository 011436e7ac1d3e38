// Two fingers on an element: how much farther apart they are than a moment ago, and the point between them.

/** Calls `zoomed(factor, {clientX, clientY})` as the fingers move; dispatches "pinchstart" when the second one touches. */
export function listenForPinch(box, zoomed) {
  const fingers = new Map();
  box.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    if (event.isPrimary) fingers.clear(); // an end that never came must not leave a finger behind
    fingers.set(event.pointerId, event);
    box.setPointerCapture(event.pointerId);
    if (fingers.size === 2) box.dispatchEvent(new Event("pinchstart"));
  });
  box.addEventListener("pointermove", (event) => {
    if (fingers.size !== 2 || !fingers.has(event.pointerId)) return;
    const before = distance(fingers);
    fingers.set(event.pointerId, event);
    if (before > 0) zoomed(distance(fingers) / before, middle(fingers));
  });
  for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, (event) => fingers.delete(event.pointerId));
}

function distance(fingers) {
  const [a, b] = [...fingers.values()];
  return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
}

function middle(fingers) {
  const [a, b] = [...fingers.values()];
  return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
}

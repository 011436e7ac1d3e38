// How variations of one image differ by the amount of motion; those that differ by their seed are a group of the service's.

/** Motion of the calmest and of the liveliest variation. */
const CALM = 40;
const LIVELY = 220;

/** The motion of each of `count` variations, from the calmest. */
export function motions(count) {
  return Array.from({ length: count }, (_, number) => Math.round(CALM + ((LIVELY - CALM) * number) / (count - 1)));
}

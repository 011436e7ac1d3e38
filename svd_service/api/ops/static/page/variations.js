// How the variations of one image differ: by their seed, or by the amount of motion.

/** Motion of the calmest and of the liveliest variation. */
const CALM = 40;
const LIVELY = 220;

/** What is different in each of `count` variations: [{seed}] or [{seed, motion_bucket_id}]; for one, only a chosen seed. */
export function variations(count, by, { seed, first, most }) {
  if (count === 1) return [{ seed }];
  if (by === "motion") {
    const step = (LIVELY - CALM) / (count - 1);
    return Array.from({ length: count }, (_, number) => ({ seed: first, motion_bucket_id: Math.round(CALM + step * number) }));
  }
  return Array.from({ length: count }, (_, number) => ({ seed: (first + number) % (most + 1) }));
}

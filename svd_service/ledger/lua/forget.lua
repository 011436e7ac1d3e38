-- Delete a job's record. A job that has not ended is kept, unless `insist` is set: then a queued one is cancelled and
-- deleted at once; a started one is cancelled, loses its owner now, and is deleted when its attempt has ended.
-- Arguments: id, insist (boolean).
-- Returns 1 if the record is gone, 0 if there was none, -1 if the job has not ended.
-- include: record, ending, forget
-- flags: allow-oom
local id = args.id
local state = fail_if_late(id, known_state(id), 0)
if not state then return 0 end
if state == 'started' then
  if args.insist and not field(id, 'deleted') then
    set(id, 'cancel', 1, 'deleted', 1)
    redis.call('ZREM', key('owner:' .. field(id, 'owner')), id)
    notify(id)
  end
  return -1
end
if state == 'queued' then
  if not args.insist then return -1 end
  end_job(id, 'cancelled', 0)
end
forget(id)
return 1

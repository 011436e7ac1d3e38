-- Delete a job's record. ARGV: id, '1' to insist. Of a job that has not ended nothing is deleted, unless insisted: then a
-- queued one is cancelled and goes at once; a started one is asked to stop, is nobody's from now on, and goes when its
-- attempt has ended. Answers 1 if the record is gone, 0 if there was none, -1 if the job has not ended.
local id, insist = ARGV[1], ARGV[2] == '1'
local state = field(id, 'state')
if not state then return 0 end
if state == 'started' then
  if insist and not field(id, 'deleted') then
    set(id, 'cancel', 1, 'deleted', 1)
    redis.call('ZREM', key('owner:' .. field(id, 'owner')), id)
    announce(id)
  end
  return -1
end
if state == 'queued' then
  if not insist then return -1 end
  end_job(id, 'cancelled', 0)
end
forget(id)
return 1

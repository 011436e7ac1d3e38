-- Retention: results past their time become 'expired', records past theirs are forgotten. ARGV: seconds to keep the
-- record of an expired result, most jobs to take at once. Answers the ids whose artifacts are to be deleted.
local due = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
for _, id in ipairs(due) do
  if field(id, 'state') == 'finished' and not field(id, 'deleted') then
    move(id, 'expired')
    redis.call('HDEL', job_key(id), 'result')
    redis.call('ZADD', key('ended'), now + tonumber(ARGV[1]), id)
    announce(id)
  else
    forget(id)
  end
end
return due

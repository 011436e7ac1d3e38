-- The live worker processes of one set. Arguments: set (`workers` are ready), statuses (the hash of their status),
-- worker_timeout (seconds without heartbeat). Returns {name, last heartbeat, status as JSON or '', …}.
-- include: base
-- flags: no-writes
local answer = {}
local seen = redis.call('ZRANGEBYSCORE', key(args.set), now - args.worker_timeout, '+inf', 'WITHSCORES')
for i = 1, #seen, 2 do
  answer[#answer + 1] = seen[i]
  answer[#answer + 1] = seen[i + 1]
  answer[#answer + 1] = redis.call('HGET', key(args.statuses), seen[i]) or ''
end
return answer

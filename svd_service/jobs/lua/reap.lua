-- Take back what silence has proved lost. ARGV: most attempts, seconds to keep a record, seconds after which a published
-- id that an idle worker should have claimed is published again, seconds after which a silent worker does not count.
-- Answers {ids whose lease lapsed, ids to publish again}.
hear()
local lapsed = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, 100)
for _, id in ipairs(lapsed) do
  close_attempt(id, 'lost', 'worker_lost')
  repeat_or_end(id, tonumber(ARGV[1]), 'worker_lost', 'The worker was lost in every attempt.', tonumber(ARGV[2]))
end

-- While every worker is busy, a published id waits by right. While one is idle, its message must be lost: publish it
-- again. That the message turns up after all does no harm, since it can be claimed only once.
local overdue = {}
if live_workers(tonumber(ARGV[4])) > redis.call('ZCARD', key('leases')) then
  overdue = redis.call('ZRANGEBYSCORE', key('published'), '-inf', now - tonumber(ARGV[3]), 'LIMIT', 0, 100)
  for _, id in ipairs(overdue) do redis.call('ZADD', key('published'), now, id) end
end
return { lapsed, overdue }

-- Choose the jobs whose ids go to Celery now, fairest first, so that as many are published and unclaimed as there are
-- workers. A job that came back from an attempt has waited already and goes beyond that number: the messages of some of
-- the published may have died with the worker that it had. ARGV: seconds after which a silent worker does not count.
-- Answers ids; the caller publishes each.
local window = math.max(1, live_workers(tonumber(ARGV[1])))
local chosen = {}
while true do
  local next = redis.call('ZRANGE', key('waiting'), 0, 0, 'WITHSCORES')
  if #next == 0 then
    -- Nobody waits or is about to start, so the past no longer matters: forget who had how much. Not sooner: whoever has
    -- one on its way would start anew beside the newcomers, and could draw even with them.
    if redis.call('ZCARD', key('published')) == 0 then redis.call('DEL', key('finish_tags'), key('clock')) end
    break
  end
  if redis.call('ZCARD', key('published')) >= window and field(next[1], 'attempt') == '0' then break end
  redis.call('ZREM', key('waiting'), next[1])
  redis.call('ZADD', key('published'), now, next[1])
  redis.call('SET', key('clock'), math.max(clock(), tonumber(next[2])))
  chosen[#chosen + 1] = next[1]
end
return chosen

-- Give out the deliveries whose time has come. ARGV: seconds after which one that was given out and not begun is given
-- out again, most that may be given out or under way, most of them to one host, seconds for which a delivery is tried,
-- seconds until the third try of one that kills couriers. Answers ids; the caller publishes each.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('posted'), '-inf', now)) do
  local number = of_delivery(id, 'tries')
  if not of_delivery(id, 'token') then
    try_again(id, 0)
  else  -- its courier is dead, or as good as that
    close_try(id, 'lost', '', 'the courier was lost')
    -- Only one that began when the time was over is the last: no chance is lost while nobody could deliver anything.
    if tonumber(of_delivery(id, 'began:' .. number)) > tonumber(of_delivery(id, 'began:1')) + tonumber(ARGV[4]) then
      end_delivery(id, 'given_up')
    else  -- that a courier dies is seldom the delivery's fault, so it need not wait; unless it happens again
      try_again(id, number == '1' and 0 or math.min(tonumber(ARGV[5]) * 3 ^ (tonumber(number) - 2), 3600))
    end
  end
end

-- A host that does not answer holds up the deliveries to itself, and nobody else's.
local of_host, room = {}, tonumber(ARGV[2]) - redis.call('ZCARD', key('posted'))
if room <= 0 then return {} end
for _, id in ipairs(redis.call('ZRANGE', key('posted'), 0, -1)) do
  local host = of_delivery(id, 'host')
  of_host[host] = (of_host[host] or 0) + 1
end
local chosen = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('outbox'), '-inf', now, 'LIMIT', 0, 5000)) do
  if #chosen == room then break end
  local host = of_delivery(id, 'host')
  if (of_host[host] or 0) < tonumber(ARGV[3]) then
    of_host[host] = (of_host[host] or 0) + 1
    redis.call('ZREM', key('outbox'), id)
    redis.call('ZADD', key('posted'), now + tonumber(ARGV[1]), id)
    chosen[#chosen + 1] = id
  end
end
return chosen

-- Choose the due deliveries that are enqueued with Celery now.
-- Arguments: enqueue_again_after (seconds after which one that was enqueued and not claimed is enqueued again), room
-- (enqueued or claimed at once), room_of_owner and room_of_host (of those), defer (seconds), give_up (seconds for which a
-- delivery is retried), backoff (seconds after the second attempt, if each so far killed its webhook worker), growth and
-- longest (of that backoff).
-- Returns ids; the caller enqueues each.
-- include: outbox
-- flags: allow-oom
local MAX_EXAMINED = 1000  -- maximum number of due deliveries that one call examines

local function requeue_lost(id)
  local number = of_delivery(id, ATTEMPTS)
  if not of_delivery(id, 'token') then
    retry(id, 0)
    return
  end
  -- Its webhook worker is dead.
  close_delivery_attempt(id, 'lost', '', DELIVERY_LOST_MESSAGE)
  -- Give up only if the attempt began after the deadline: time without a webhook worker does not count.
  if tonumber(of_delivery(id, 'began:' .. number)) > tonumber(of_delivery(id, 'began:1')) + args.give_up then
    end_delivery(id, 'given_up')
  else  -- a webhook worker rarely dies because of the delivery, so retry at once; with backoff if it happens again
    retry(id, number == '1' and 0 or math.min(args.backoff * args.growth ^ (tonumber(number) - 2), args.longest))
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('posted'), '-inf', now, 'LIMIT', 0, MAX_EXAMINED)) do
  if is_delivery(id) then requeue_lost(id) end
end

-- A host that does not answer delays only deliveries to itself, and an owner with many such hosts only its own.
local taken = {}
local function take(kind, name, by)
  local slot = kind .. ' ' .. (name or '')
  taken[slot] = (taken[slot] or 0) + by
  return taken[slot]
end

local room = args.room - redis.call('ZCARD', key('posted'))
if room <= 0 then return {} end
for _, id in ipairs(redis.call('ZRANGE', key('posted'), 0, args.room)) do
  take('host', of_delivery(id, 'host'), 1)
  take('owner', of_delivery(id, 'owner'), 1)
end

local chosen = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('outbox'), '-inf', now, 'LIMIT', 0, MAX_EXAMINED)) do
  if #chosen == room then break end
  if is_delivery(id) then
    local target = redis.call('HMGET', delivery_key(id), 'host', 'owner')
    if take('host', target[1], 0) < args.room_of_host and take('owner', target[2], 0) < args.room_of_owner then
      take('host', target[1], 1)
      take('owner', target[2], 1)
      redis.call('ZREM', key('outbox'), id)
      redis.call('ZADD', key('posted'), now + args.enqueue_again_after, id)
      chosen[#chosen + 1] = id
    else  -- after those that are due now, so that any number of them never hides others
      redis.call('ZADD', key('outbox'), now + args.defer, id)
    end
  end
end
return chosen

-- The steps of a delivery, from the outbox to its end.
-- include: base, delivery

-- Return whether a delivery is valid. One that is missing or damaged is dropped.
local function is_delivery(id)
  local found = redis.pcall('HMGET', delivery_key(id), 'state', 'url', 'type', 'owner', 'job', ATTEMPTS)
  local sound = not found.err and found[1] == 'pending' and found[2] and found[3] and found[4]
    and type(decoded(found[5], {})[1]) == 'string' and string.match(found[6] or '', '^%d%d?%d?%d?%d?$')
  if sound and found[6] ~= '0' then
    for _, number in ipairs({ '1', found[6] }) do
      if not tonumber(of_delivery(id, 'began:' .. number) or '') then sound = false end
    end
  end
  if sound then return true end
  redis.call('ZREM', key('outbox'), id)
  redis.call('ZREM', key('posted'), id)
  if found.err or found[1] == 'pending' then redis.call('DEL', delivery_key(id)) end
  count('damaged|delivery')
  return false
end

local function close_delivery_attempt(id, outcome, code, message)
  local number = of_delivery(id, ATTEMPTS)
  redis.call('HSET', delivery_key(id), 'code:' .. number, code, 'error:' .. number, message)
  redis.call('HDEL', delivery_key(id), 'token')
  count('webhook_tries|' .. outcome)
end

local function retry(id, pause)
  redis.call('ZREM', key('posted'), id)
  redis.call('ZADD', key('outbox'), now + pause, id)
  redis.call('HSET', delivery_key(id), 'next', as_text(now + pause))
end

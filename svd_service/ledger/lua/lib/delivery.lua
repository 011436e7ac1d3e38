-- Webhook deliveries. The script that ends a job also writes its delivery, so that no crash can separate the two; with a
-- copy of the record, since that may be deleted before the webhook is delivered.
-- include: base

local function delivery_key(id) return namespace .. ':delivery:' .. id end
local function of_delivery(id, name) return redis.call('HGET', delivery_key(id), name) end

local function write_delivery(id, state)
  local url = field(id, 'webhook')
  if not url then return end
  local host = string.lower(string.gsub(string.match(url, '^%a+://([^/?#]*)') or '', '^.*@', ''))
  redis.call('HSET', delivery_key(id), 'state', 'pending', 'type', 'job.' .. state, 'url', url, 'host', host,
    'owner', field(id, 'owner'), 'created', now_text, 'next', now_text, ATTEMPTS, 0,
    'job', cjson.encode(redis.call('HGETALL', job_key(id))))
  redis.call('ZADD', key('outbox'), now, id)
end

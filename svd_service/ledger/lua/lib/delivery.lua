-- Webhook deliveries. The script that ends a job also writes its delivery, so that no crash can separate the two; with a
-- copy of the record, since that may be deleted before the webhook is delivered.
-- include: base

local function delivery_key(id) return namespace .. ':delivery:' .. id end
local function of_delivery(id, name) return redis.call('HGET', delivery_key(id), name) end

-- `id` of a job or a group; `copy`: its record, and those of the group's jobs.
local function post_delivery(id, kind, url, owner, copy)
  local host = string.lower(string.gsub(string.match(url, '^%a+://([^/?#]*)') or '', '^.*@', ''))
  redis.call('HSET', delivery_key(id), 'state', 'pending', 'type', kind, 'url', url, 'host', host,
    'owner', owner, 'created', now_text, 'next', now_text, ATTEMPTS, 0, 'job', cjson.encode(copy))
  redis.call('ZADD', key('outbox'), now, id)
end

local function write_delivery(id, state)
  local url = field(id, 'webhook')
  if not url then return end
  post_delivery(id, 'job.' .. state, url, field(id, 'owner'), redis.call('HGETALL', job_key(id)))
end

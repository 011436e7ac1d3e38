-- Webhook deliveries. The script that ends a job also writes its delivery, so that no crash can separate the two; with a
-- copy of the record, since that may be deleted before the webhook is delivered.
-- include: base

local function delivery_key(id) return namespace .. ':delivery:' .. id end
local function of_delivery(id, name) return redis.call('HGET', delivery_key(id), name) end

-- End a delivery. Its outcome is shown for as long as the record of the job or the group exists.
local function end_delivery(id, state)
  redis.call('ZREM', key('posted'), id)
  redis.call('ZREM', key('pending_of:' .. (of_delivery(id, 'owner') or '')), id)
  redis.call('HDEL', delivery_key(id), 'job')
  redis.call('HSET', delivery_key(id), 'state', state)
  count('webhooks|' .. state)
  local left = redis.call('TTL', group_key(id))
  if left > 0 then
    redis.call('EXPIRE', delivery_key(id), left)
  elseif redis.call('EXISTS', job_key(id)) == 0 then
    redis.call('DEL', delivery_key(id))
  end
end

-- Add `id` to a set of what costs its owner nothing. Returns the oldest beyond MAX_ENDED_PER_OWNER, which are removed: a few
-- at a time, so that no call takes long.
local function add_bounded(set, id)
  redis.call('ZADD', set, now, id)
  local surplus = math.min(redis.call('ZCARD', set) - MAX_ENDED_PER_OWNER, 10)
  if surplus < 1 then return {} end
  local oldest = redis.call('ZRANGE', set, 0, surplus - 1)
  redis.call('ZREM', set, unpack(oldest))
  return oldest
end

-- An owner can have deliveries to hosts that do not answer at no cost: beyond as many as there may be records, the oldest
-- are given up.
local function bound_deliveries(id, owner)
  for _, oldest in ipairs(add_bounded(key('pending_of:' .. owner), id)) do
    -- One that is being attempted ends by itself.
    if redis.call('ZREM', key('outbox'), oldest) == 1 then end_delivery(oldest, 'given_up') end
  end
end

-- `id` of a job or a group; `copy`: its record, and those of the group's jobs.
local function post_delivery(id, kind, url, owner, copy)
  local host = string.lower(string.gsub(string.match(url, '^%a+://([^/?#]*)') or '', '^.*@', ''))
  redis.call('HSET', delivery_key(id), 'state', 'pending', 'type', kind, 'url', url, 'host', host,
    'owner', owner, 'created', now_text, 'next', now_text, ATTEMPTS, 0, 'job', cjson.encode(copy))
  redis.call('ZADD', key('outbox'), now, id)
  bound_deliveries(id, owner)
end

local function write_delivery(id, state)
  local url = field(id, 'webhook')
  if not url then return end
  post_delivery(id, 'job.' .. state, url, field(id, 'owner'), redis.call('HGETALL', job_key(id)))
end

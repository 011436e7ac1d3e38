-- Names of keys, Redis' clock, fields of job hashes, and counters.
-- Every script: KEYS[1] is the namespace, ARGV[1] its arguments as one JSON object. Keys, fields and invariants are listed
-- in svd_service/ledger/__init__.py.
local namespace = KEYS[1]
local args = cjson.decode(ARGV[1])

-- Redis' own clock, in seconds, so that no host's clock decides about a lease. An argument `now` replaces it.
local time = redis.call('TIME')
local now = args.now or tonumber(time[1]) + tonumber(time[2]) / 1000000

-- Lua's own tostring keeps 14 digits, too few for microseconds since 1970.
local function as_text(seconds) return string.format('%.6f', seconds) end
local now_text = as_text(now)

local function key(name) return namespace .. ':' .. name end
local function job_key(id) return namespace .. ':job:' .. id end
local function group_key(id) return namespace .. ':group:' .. id end
local function field(id, name) return redis.call('HGET', job_key(id), name) end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end

-- A counter that is damaged starts again from zero.
local function increment(hash, name, by)
  local counted = redis.pcall('HINCRBY', hash, name, by)
  if type(counted) == 'table' and counted.err then redis.call('HDEL', hash, name) end
end

local function count(name, by) increment(key('counters'), name, by or 1) end

-- The value of JSON; `otherwise` if it is damaged or of another type.
local function decoded(json, otherwise)
  local sound, value = pcall(cjson.decode, json or '')
  if sound and type(value) == type(otherwise) then return value end
  return otherwise
end

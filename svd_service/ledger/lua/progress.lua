-- Renew a lease and, with a phase, tell how far the attempt is. ARGV: id, token, lease in seconds, phase or '', step,
-- steps. Answers 'stale', 'cancel' (the caller is to stop) or 'ok'.
hear()
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 'stale' end
redis.call('ZADD', key('leases'), now + tonumber(ARGV[3]), id)
local known = redis.call('HMGET', job_key(id), 'phase', 'step', 'steps')
if ARGV[4] ~= '' and not (known[1] == ARGV[4] and known[2] == ARGV[5] and known[3] == ARGV[6]) then
  set(id, 'phase', ARGV[4], 'step', ARGV[5], 'steps', ARGV[6], 'told', now_text)
  announce(id)
end
return field(id, 'cancel') and 'cancel' or 'ok'

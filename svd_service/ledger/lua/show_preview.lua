-- An attempt has a new preview. ARGV: id, token, name of its artifact. Answers 'stale' or 'ok'. Repeated, it tells of
-- the same preview twice, which costs a look.
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 'stale' end
redis.call('HINCRBY', job_key(id), 'preview', 1)
set(id, 'preview_name', ARGV[3])
announce(id)
return 'ok'

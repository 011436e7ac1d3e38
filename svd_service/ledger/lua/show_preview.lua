-- Record a new preview of an attempt. Repeated, it notifies twice of the same preview, which costs one lookup.
-- Arguments: id, token, name (of its artifact). Returns 'stale' or 'ok'.
-- include: attempt
-- flags: allow-oom
local id = args.id
if not holds(id, args.token) then return 'stale' end
redis.call('HINCRBY', job_key(id), 'preview', 1)
set(id, 'preview_name', args.name)
notify(id)
return 'ok'

-- An attempt has a new preview. Repeated, it notifies twice of the same preview, which costs a look.
-- Arguments: id, token, name (of its artifact). Answers 'stale' or 'ok'.
-- include: attempt
-- flags: allow-oom
local id = args.id
if not holds(id, args.token) then return 'stale' end
redis.call('HINCRBY', job_key(id), 'preview', 1)
set(id, 'preview_name', args.name)
notify(id)
return 'ok'

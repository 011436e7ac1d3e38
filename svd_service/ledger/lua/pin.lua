-- Pin a finished job, so that retention leaves its result alone, or let retention go on.
-- Arguments: id, on (boolean), limit (pinned jobs of an owner), grace (minimum seconds of retention after the pin).
-- Returns 'ok', 'full', 'none' (there is no such job) or 'no result' (it has none, or no longer).
-- include: record, notify, group
-- flags: allow-oom
local id = args.id
local state = known_state(id)
if not state then return 'none' end
local pinned, expires = field(id, 'pinned'), tonumber(field(id, 'expires') or '')
if state ~= 'finished' or field(id, 'deleted') or not expires then return 'no result' end
if (pinned and true or false) == args.on then return 'ok' end
local owned = key('pinned:' .. field(id, 'owner'))
if args.on then
  if expires <= now then return 'no result' end
  if redis.call('ZCARD', owned) >= args.limit then return 'full' end
  redis.call('ZADD', owned, now, id)
  redis.call('ZADD', key('ended'), '+inf', id)
  set(id, 'pinned', 1)
else
  expires = math.max(expires, now + args.grace)
  redis.call('ZREM', owned, id)
  redis.call('ZADD', key('ended'), expires, id)
  redis.call('HDEL', job_key(id), 'pinned')
  set(id, 'expires', as_text(expires))
end
keep_while_pinned(field(id, 'group'))
notify(id)
return 'ok'

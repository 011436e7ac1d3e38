-- An earlier job that made the same video. Pixels depend on the kind of device too, so only videos of a kind that a live
-- worker has count. Arguments: owner, content (digest), model, worker_timeout (seconds without heartbeat).
-- Returns its id, or ''.
-- include: base, content
-- flags: no-writes
for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), now - args.worker_timeout, '+inf')) do
  local status = decoded(redis.call('HGET', key('worker_status'), name), {})
  if status.model == args.model and type(status.device) == 'string' then
    local same = redis.call('HGET', content_key(args.owner, args.content), status.device)
    if same and is_reusable(same, args.owner) then return same end
  end
end
return ''

-- An earlier job that made the very video. ARGV: owner, digest of what the video depends on, name of the model, seconds
-- after which a silent worker does not count. Pixels depend on the kind of device too, so only what was made on one that
-- is at work now counts. Answers its id, or ''.
local owner = ARGV[1]
for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), now - tonumber(ARGV[4]), '+inf')) do
  local status = cjson.decode(redis.call('HGET', key('worker_status'), name) or '{}')
  if status.model == ARGV[3] then
    local same = redis.call('HGET', content_key(owner, ARGV[2]), status.device)
    if same and is_reusable(same, owner) then return same end
  end
end
return ''

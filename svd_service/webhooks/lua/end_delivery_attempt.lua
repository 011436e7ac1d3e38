-- End a delivery attempt.
-- Arguments: id, token, outcome, code (status of the answer, or ''), message (what went wrong, or ''), pause (seconds until
-- the next attempt), give_up (seconds for which a delivery is retried).
-- Outcomes: 'delivered'; 'failed', retried while there is time; 'gone', not retried. Returns 'ok' or 'stale'.
-- include: outbox
-- flags: allow-oom
local id, outcome = args.id, args.outcome
local token = redis.pcall('HGET', delivery_key(id), 'token')
if token ~= args.token then
  if type(token) == 'table' then return 'stale' end
  -- A delivery that ended and whose job was deleted has no record any more.
  local last = of_delivery(id, 'last_token')
  return (last == args.token or redis.call('EXISTS', delivery_key(id)) == 0) and 'ok' or 'stale'
end
if not is_delivery(id) then return 'stale' end
close_delivery_attempt(id, outcome == 'delivered' and outcome or 'failed', args.code, args.message)
redis.call('HSET', delivery_key(id), 'last_token', token)
if outcome == 'delivered' then
  end_delivery(id, 'delivered')
elseif outcome == 'gone' or now + args.pause > tonumber(of_delivery(id, 'began:1')) + args.give_up then
  end_delivery(id, 'given_up')
else
  retry(id, args.pause)
end
return 'ok'

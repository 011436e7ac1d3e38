-- End a try. ARGV: id, token, outcome, status code of the answer or '', what went wrong or '', seconds until the next try,
-- seconds for which a delivery is tried. Outcomes: 'delivered'; 'failed', to be repeated while there is time; 'gone', not
-- to be repeated. Answers 'ok' or 'stale'.
local id, token, outcome = ARGV[1], ARGV[2], ARGV[3]
if of_delivery(id, 'token') ~= token then
  -- One that is over and whose job was deleted has left nothing behind.
  local last = of_delivery(id, 'last_token')
  return (last == token or redis.call('EXISTS', delivery_key(id)) == 0) and 'ok' or 'stale'
end
close_try(id, outcome == 'delivered' and outcome or 'failed', ARGV[4], ARGV[5])
redis.call('HSET', delivery_key(id), 'last_token', token)
local pause = tonumber(ARGV[6])
if outcome == 'delivered' then
  end_delivery(id, 'delivered')
elseif outcome == 'gone' or now + pause > tonumber(of_delivery(id, 'began:1')) + tonumber(ARGV[7]) then
  end_delivery(id, 'given_up')
else
  try_again(id, pause)
end
return 'ok'

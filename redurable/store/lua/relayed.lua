-- relayed: any -> any
-- An ended intent owes nothing any more; `answered` are the approvals of it that nobody answers now. Whom it told ('~'
-- for '^') is kept: should an operator retry it, its other end is told too. `token` is of the retry (if any) before the
-- end that was relayed: what a later end owes is not done with it.
-- by     worker
-- keys   head timers asked
-- args   id token answered*
-- reply  OK | WRONG_STATE
-- flags  allow-oom
local h = redis.call('HMGET', head, 'status', 'reply', 'redriven')
if h[1] and (not ended(h[1]) or (h[3] or '') ~= token) then return 'WRONG_STATE' end
redis.call('HDEL', head, 'owes')
if h[2] then redis.call('HSET', head, 'reply', (h[2]:gsub('^%^', '~'))) end
redis.call('ZREM', timers, id)
for _, key in ipairs(answered) do redis.call('ZREM', asked, id .. '/' .. key) end
return 'OK'

-- relayed: any -> any
-- An ended intent owes nothing any more; `answered` are the approvals of it that nobody answers now.
-- by     worker
-- keys   head timers asked
-- args   id answered*
-- reply  OK | WRONG_STATE
-- flags  allow-oom
local status = redis.call('HGET', head, 'status')
if status and not ended(status) then return 'WRONG_STATE' end
redis.call('HDEL', head, 'reply', 'owes')
redis.call('ZREM', timers, id)
for _, key in ipairs(answered) do redis.call('ZREM', asked, id .. '/' .. key) end
return 'OK'

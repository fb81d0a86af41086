-- sweep: COMPLETED | FAILED | CANCELED | TIMED_OUT -> none
-- Removes a finished intent whose retention is over.
-- by     worker
-- keys   head envelope journal outcome cursors arrivals events marks view
-- args   id
-- reply  OK | EARLY | WRONG_STATE
-- flags  allow-oom
-- uses   remove
local due = redis.call('ZSCORE', view, id)
if due and tonumber(due) > now_ms() then return 'EARLY' end
local status, told, owes = unpack(redis.call('HMGET', head, 'status', 'reply', 'owes'))
if status and not ended(status) then
  redis.call('ZREM', view, id)
  return 'WRONG_STATE'
end
if owes or (told or ''):sub(1, 1) == '^' then return 'EARLY' end
remove(id, {view}, head, envelope, journal, outcome, cursors, arrivals, events, marks)
return 'OK'

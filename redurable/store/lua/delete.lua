-- delete: COMPLETED | FAILED | CANCELED | TIMED_OUT -> none
-- Removes a finished intent now, whatever its retention; its idempotency key may be used again.
-- by     client
-- keys   head envelope journal outcome cursors arrivals events marks done failed
-- args   id
-- reply  OK | WRONG_STATE
-- flags  allow-oom
-- uses   remove
local status = redis.call('HGET', head, 'status')
if status and not ended(status) then return 'WRONG_STATE' end
remove(id, {done, failed}, head, envelope, journal, outcome, cursors, arrivals, events, marks)
return 'OK'

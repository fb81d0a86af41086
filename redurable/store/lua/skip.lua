-- skip: SUBMITTED | WAITING | PAUSED -> FAILED
-- Ends an intent that holds its session and is not being run, so that the next in line begins; a retry continues it.
-- by     client
-- keys   head stream outcome view timers cursors
-- args   id at result keep channels
-- with   session
-- reply  OK | AGAIN | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rearm admit leave finish
local h = redis.call('HMGET', head, 'status', 'at')
if not h[1] then return 'NOT_FOUND' end
if h[1] == 'FAILED' then return 'OK' end
if h[1] ~= 'SUBMITTED' and h[1] ~= 'WAITING' and h[1] ~= 'PAUSED' then return 'WRONG_STATE' end
if (h[2] or '') ~= at then return 'AGAIN' end
if moved(session, id) then return 'AGAIN' end -- session
if h[2] then drop(stream, at:match('/(.*)$')) end
finish({head = head, outcome = outcome, view = view, timers = timers, cursors = cursors},
  id, 'FAILED', result, keep, channels)
leave(session, id) -- session
return 'OK'

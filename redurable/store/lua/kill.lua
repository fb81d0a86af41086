-- kill: CREATED | SUBMITTED | IN_PROGRESS | WAITING | PAUSED -> CANCELED
-- Ends an open intent at once: its handler is not asked, nothing is undone. An owner is fenced by the state, and told.
-- by     client
-- keys   head stream outcome view timers cursors
-- args   id at result keep channels hints
-- with   session
-- reply  CANCELED | AGAIN | NOT_FOUND | COMPLETED | FAILED | TIMED_OUT
-- flags  allow-oom
-- uses   enqueue rearm admit leave finish
local h = redis.call('HMGET', head, 'status', 'at', 'fence')
if not h[1] then return 'NOT_FOUND' end
if ended(h[1]) then return h[1] end
if (h[2] or '') ~= at then return 'AGAIN' end
if moved(session, id) then return 'AGAIN' end -- session
if h[2] then drop(stream, h[2]:match('/(.*)$')) end
finish({head = head, outcome = outcome, view = view, timers = timers, cursors = cursors},
  id, 'CANCELED', result, keep, channels)
leave(session, id) -- session
if h[1] == 'IN_PROGRESS' then redis.call('PUBLISH', hints .. h[3]:match('^%d+:(.*):%d+$'), '!' .. id) end
return 'CANCELED'

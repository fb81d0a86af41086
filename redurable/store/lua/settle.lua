-- settle: IN_PROGRESS -> COMPLETED | FAILED | CANCELED | TIMED_OUT
-- Ends the intent: outcome, entry, timer, view and waiters in one step. `result` is '' for a result of nothing.
-- by     owner
-- keys   head journal outcome view timers cursors stream
-- args   id fence k entry status result keep channels
-- with   session
-- reply  OK | AGAIN | DUPLICATE | REGRESSED | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rearm admit leave finish save
-- the first seven are what finish wants to know
local h = redis.call('HMGET', head, 'reply', 'watch', 'deadline', 'wake', 'start', 'cursors', 'owes', 'status',
  'fence', 'base')
if h[8] == status and h[9] == fence then return 'OK' end
local no = refused(h[8], h[9], fence) or (k ~= '0' and miscounted(journal, h[10], k))
if no then return no end
if moved(session, id) then return 'AGAIN' end -- session
save(session, head) -- session
drop(stream, entry)
finish({head = head, outcome = outcome, view = view, timers = timers, cursors = cursors},
  id, status, result, keep, channels, h)
leave(session, id) -- session
return 'OK'

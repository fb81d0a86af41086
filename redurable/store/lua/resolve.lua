-- resolve: WAITING -> SUBMITTED
-- Brings an open intent what it waits for, or may wait for yet: a promise's value, a child's outcome. The first under
-- a `key` wins; the same `digest` again is answered alike. `most` such values may wait unasked ('' = any number).
-- by     client
-- keys   head journal arrivals asked continuation streams timers
-- args   id key digest entry lane most hints
-- reply  OK | ALREADY_RESOLVED | WITHDRAWN | FULL | NOT_FOUND | COMPLETED | FAILED | CANCELED | TIMED_OUT
-- uses   enqueue rearm arrive
local status, reason = unpack(redis.call('HMGET', head, 'status', 'reason'))
if not status then return 'NOT_FOUND' end
local old, unasked = unpack(redis.call('HMGET', arrivals, key, '#'))
local mark = old and old:sub(1, 1)
if mark == '=' then return old:match(':(.*)$') == digest and 'OK' or 'ALREADY_RESOLVED' end
if mark == '-' then return 'WITHDRAWN' end
if ended(status) then return status end
local counts = not old and most ~= ''
if counts and tonumber(unasked or 0) >= tonumber(most) then return 'FULL' end
-- a backoff is waited out, whatever comes
local seq = arrive({head = head, journal = journal, continuation = continuation, streams = streams, timers = timers},
  id, lane, entry, hints, not counts and reason ~= 'RETRY')
redis.call('HSET', arrivals, key, '=' .. seq .. ':' .. digest)
if counts then redis.call('HINCRBY', arrivals, '#', 1) end
if old then redis.call('ZREM', asked, id .. '/' .. key) end
return 'OK'

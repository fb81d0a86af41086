-- debounce: none | CREATED -> CREATED
-- Sends an intent that starts `quiet` ms from now, and takes what is said until then in the place of what was: each
-- such call puts its start off, at most to `within` ms after the first. `before` is the intent that `burst` names as
-- the caller read it, `id` the same, or a new one.
-- by     client
-- keys   burst head envelope timers
-- args   id before token body queue lane reply deadline max session quiet within
-- reply  OK | AGAIN | CLOSED
-- uses   rearm
local h = redis.call('HMGET', head, 'status', 'start', 'until', 'said')
if h[4] == token then return 'OK' end
if (redis.call('GET', burst) or '') ~= before then return 'AGAIN' end
if id == before and not (h[1] == 'CREATED' and h[2] and h[3]) then return 'CLOSED' end
local last = tonumber(h[3] or nil) or now_ms() + tonumber(within)
redis.call('SET', envelope, body)
redis.call('HSET', head, 'status', 'CREATED', 'queue', queue, 'lane', lane, 'reply', reply, 'said', token,
  'start', math.min(now_ms() + tonumber(quiet), last), 'until', last)
redis.call('HSETNX', head, 'created', at_ms())
redis.call('HDEL', head, 'max', 'deadline')
if max ~= '' then redis.call('HSET', head, 'max', max) end
if deadline ~= '' then redis.call('HSET', head, 'deadline', moment(deadline)) end
if session ~= '' then redis.call('HSET', head, 'session', session) end
redis.call('SET', burst, id, 'PX', math.max(0, last - now_ms()) + 86400000)
rearm(head, timers, id)
return 'OK'

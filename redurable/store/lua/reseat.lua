-- reseat: CREATED -> SUBMITTED | PAUSED
-- Re-adds what a lost write took from a session's line: the place of an open intent, or the turn of the first if who
-- held it is gone; a place of '' is the end of the line. `holder` is the head of `first`, the first in line as the
-- caller read it; `lane` that of `head`.
-- by     worker
-- keys   head line holder stream streams
-- args   id lane first
-- reply  OK | MENDED | AGAIN | STALE
-- flags  allow-oom
-- uses   enqueue admit stand
local h = redis.call('HMGET', head, 'status', 'start', 'place', 'lane')
if not h[1] or ended(h[1]) then return 'STALE' end
if h[1] == 'CREATED' and h[2] then return 'OK' end
if (redis.call('ZRANGE', line, 0, 0)[1] or '') ~= first then return 'AGAIN' end
if h[1] == 'CREATED' and h[4] ~= lane then return 'AGAIN' end
local mended, score = 'OK', redis.call('ZSCORE', line, id)
if first ~= '' and first ~= id then
  local status = redis.call('HGET', holder, 'status')
  if not status or ended(status) then
    redis.call('ZREM', line, first)
    mended = 'MENDED'
  end
end
if not score and h[1] == 'CREATED' then
  if h[3] == '' then
    h[3] = hindmost(line)
    redis.call('HSET', head, 'place', h[3])
  end
  redis.call('ZADD', line, h[3], id)
  mended = 'MENDED'
end
local top = redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')
if h[1] ~= 'CREATED' then
  if score == '0' or top[2] == '0' then return mended end
  redis.call('ZADD', line, 0, id)
  return 'MENDED'
end
if top[1] ~= id or top[2] == '0' then return mended end
redis.call('ZADD', line, 0, id)
admit(head, stream, streams, lane, id)
return 'MENDED'

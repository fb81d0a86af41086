-- linger: IN_PROGRESS -> WAITING | SUBMITTED | PAUSED
-- Gives the intent up until a limit calls it up, or until `wake`. Refused when the journal holds more than the owner
-- has seen ('' = the handler has not begun: the attempt is taken back), or when one of its `places` (id of a limit,
-- place, ...) is no longer in line.
-- by     owner
-- keys   head journal timers stream continuation streams
-- args   id fence k seen entry wake lane limit prefix places*
-- reply  OK | NEWS | DUPLICATE | REGRESSED | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rearm rest limit
local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'watch', 'paused', 'attempt', 'version')
if (h[1] == 'WAITING' or h[1] == 'PAUSED') and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence) or miscounted(journal, h[3], k)
if no then return no end
local length = redis.call('LLEN', journal)
if seen ~= '' and length ~= tonumber(seen) then return 'NEWS' end
for i = 1, #places, 2 do
  if not redis.call('ZSCORE', limit_of(prefix, places[i]).line, places[i + 1]) then return 'NEWS' end
end
drop(stream, entry)
if k ~= '0' then redis.call('HDEL', head, 'losses', 'lost') end
if seen == '' and h[6] == '1' then
  if length == 0 then redis.call('HDEL', head, 'attempt') else redis.call('HSET', head, 'attempt', 0) end
  redis.call('HDEL', head, 'started')
  if h[7] then redis.call('HSET', head, 'version', '') end -- it begins on what is current then
end
if h[5] then
  requeue(head, h[5], continuation, streams, lane, id) -- once resumed it asks again
else
  redis.call('HDEL', head, 'at')
  redis.call('HSET', head, 'status', 'WAITING', 'reason', 'LIMIT', 'limit', limit, 'wake', moment(wake))
end
rearm(head, timers, id)
if h[4] then redis.call('PUBLISH', h[4], id .. '+') end
return 'OK'

-- continue: IN_PROGRESS -> SUBMITTED | PAUSED
-- Begins the intent's next turn: with a payload of its own (`body`), its journal is `first` and what came and was not
-- used (`kept`: key, entry, ...). Refused when the journal holds more than the owner has seen. One that is pinned goes
-- to a fresh `lane`, and is pinned anew there.
-- by     owner
-- keys   head journal envelope stream continuation streams cursors arrivals asked
-- args   id fence k seen entry lane turn body first kept*
-- with   session
-- reply  OK | NEWS | DUPLICATE | REGRESSED | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rest save
local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'watch', 'paused')
if (h[1] == 'SUBMITTED' or h[1] == 'PAUSED') and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence) or miscounted(journal, h[3], k)
if no then return no end
if redis.call('LLEN', journal) ~= tonumber(seen) then return 'NEWS' end
save(session, head) -- session
drop(stream, entry)
local digests, known = {}, redis.call('HGETALL', arrivals)
for i = 1, #known, 2 do
  digests[known[i]] = known[i + 1]:match('^=%d+:(.*)$')
  if known[i + 1]:sub(1, 1) == '?' then redis.call('ZREM', asked, id .. '/' .. known[i]) end
end
redis.call('UNLINK', journal, cursors, arrivals)
redis.call('RPUSH', journal, first)
for i = 1, #kept, 2 do
  local seq = redis.call('RPUSH', journal, kept[i + 1])
  redis.call('HSET', arrivals, kept[i], '=' .. seq .. ':' .. (digests[kept[i]] or ''), '#', (i + 1) / 2)
end
redis.call('SET', envelope, body)
redis.call('HDEL', head, 'losses', 'lost', 'cursors', 'changed', 'long', 'held', 'kept')
redis.call('HSET', head, 'turn', turn)
if lane:sub(1, 1) == 'q' then redis.call('HSET', head, 'version', '') end
requeue(head, h[5], continuation, streams, lane, id)
if h[4] then redis.call('PUBLISH', h[4], id .. '+') end
return 'OK'

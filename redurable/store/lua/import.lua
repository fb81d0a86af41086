-- import: none -> CREATED | SUBMITTED | WAITING | COMPLETED | FAILED | CANCELED | TIMED_OUT
-- Stores an intent as it was exported, under its id; `fields` is its head. An open one goes on, a finished one is kept
-- until `keep` (ms). `token` tells a call sent twice.
-- by     client
-- keys   head envelope journal outcome cursors arrivals view timers stream streams
-- args   id token body status lane result keep fields* entries* kept* brought*
-- reply  OK | EXISTS | CONFLICT
-- uses   enqueue rearm
local old = redis.call('HMGET', head, 'status', 'imported')
if old[1] then return old[2] == token and 'EXISTS' or 'CONFLICT' end
-- a call takes some thousands of words at most
local function fill(command, key, words)
  for from = 1, #words, 1000 do
    redis.call(command, key, unpack(words, from, math.min(from + 999, #words)))
  end
end
redis.call('SET', envelope, body)
redis.call('UNLINK', journal, cursors, arrivals)
fill('RPUSH', journal, entries)
fill('HSET', cursors, kept)
fill('HSET', arrivals, brought)
fill('HSET', head, fields)
redis.call('HSET', head, 'status', status, 'imported', token)
if ended(status) then
  if #result <= 60 then redis.call('HSET', head, 'outcome', result) else redis.call('SET', outcome, result) end
  redis.call('ZADD', view, keep, id)
elseif status == 'SUBMITTED' then
  redis.call('HSET', head, 'at', enqueue(stream, streams, lane, id))
end
rearm(head, timers, id)
return 'OK'

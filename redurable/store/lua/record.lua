-- record: IN_PROGRESS -> IN_PROGRESS
-- Appends entries for the attempt that holds the fence; `k` is how many it has appended before. Answers the last seq.
-- by     owner
-- keys   head journal
-- args   id fence k entries*
-- reply  seq | DUPLICATE | REGRESSED | FENCED | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'watch')
local no = refused(h[1], h[2], fence) or miscounted(journal, h[3], k)
if no then return no end
local seq = redis.call('RPUSH', journal, unpack(entries))
if h[4] then redis.call('PUBLISH', h[4], id .. '+') end
return seq

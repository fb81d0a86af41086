-- tell: IN_PROGRESS -> IN_PROGRESS
-- Adds events to what watchers of the intent are told, after `skip` that its owner had to drop; `places` (name,
-- number, ...) say how far each part has come. The oldest beyond `most` go, all of them `life` seconds after the last.
-- `number` counts the owner's calls. A `turn` that begins does away with the parts of the one before.
-- by     owner
-- keys   head events marks
-- args   id fence number turn skip most life progress told* places*
-- reply  seq | FENCED | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'fence', 'watch')
local no = refused(h[1], h[2], fence)
if no then return no end
local m = redis.call('HMGET', marks, 'seq', 'by', 'turn', 'p', 'at')
local seq, by = tonumber(m[1] or 0), fence .. '/' .. number
if m[2] == by then return seq end
if m[3] and m[3] ~= turn then
  redis.call('DEL', marks)
  if m[4] then redis.call('HSET', marks, 'p', m[4], 'at', m[5] or 0) end
end
seq = seq + tonumber(skip)
for _, event in ipairs(told) do
  seq = seq + 1
  redis.call('XADD', events, 'MAXLEN', '~', most, string.format('%.0f-0', seq), 'v', event)
end
if #told > 0 then redis.call('EXPIRE', events, life) end
redis.call('HSET', marks, 'seq', string.format('%.0f', seq), 'by', by, 'turn', turn, unpack(places))
if progress ~= '' then redis.call('HSET', marks, 'p', progress, 'at', at_ms()) end
if h[3] then redis.call('PUBLISH', h[3], id .. '+') end
return seq

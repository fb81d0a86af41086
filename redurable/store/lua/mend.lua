-- mend: CREATED | SUBMITTED | IN_PROGRESS | WAITING -> SUBMITTED | PAUSED
-- Re-adds what a lost write took from an open intent: its entry (`at`, as the caller read it) or its timer.
-- by     worker
-- keys   head stream continuation streams timers
-- args   id at lane
-- reply  OK | MENDED | STALE
-- flags  allow-oom
-- uses   enqueue rearm rest

-- Will the group never give this entry, which nobody holds, to anybody?
local function read_past(of, id)
  local ms, n = id:match('(%d+)-(%d+)')
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', of)) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    local last_ms, last_n = facts['last-delivered-id']:match('(%d+)-(%d+)')
    ms, n, last_ms, last_n = tonumber(ms), tonumber(n), tonumber(last_ms), tonumber(last_n)
    if facts.name == 'rd' then return ms < last_ms or (ms == last_ms and n <= last_n) end
  end
  return false
end
local h = redis.call('HMGET', head, 'status', 'at', 'start', 'wake', 'deadline', 'paused')
if h[1] == 'CREATED' or h[1] == 'WAITING' then
  if (h[3] or h[4] or h[5]) and not redis.call('ZSCORE', timers, id) then
    rearm(head, timers, id)
    return 'MENDED'
  end
  return 'OK'
end
if h[1] ~= 'SUBMITTED' and h[1] ~= 'IN_PROGRESS' then return 'STALE' end
if (h[2] or '') ~= at then return 'STALE' end
local entry, mended = at:match('/(.*)$'), 'OK'
if h[5] and not redis.call('ZSCORE', timers, id) then
  rearm(head, timers, id)
  mended = 'MENDED'
end
if entry and #redis.call('XRANGE', stream, entry, entry) > 0 then
  if #redis.pcall('XPENDING', stream, 'rd', entry, entry, 1) > 0 then return mended end
  if h[1] == 'SUBMITTED' and not read_past(stream, entry) then return mended end
end
if entry then drop(stream, entry) end
requeue(head, h[6], continuation, streams, lane, id)
return 'MENDED'

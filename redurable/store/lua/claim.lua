-- claim: SUBMITTED -> IN_PROGRESS
-- Takes what `given` names (stream, entry, id: a blocking read delivered them), then up to `count` from the streams in
-- their order, and answers all that attempts need. Keys of intents are built from `prefix`: ids are only known here.
-- A worker's numbers rise; sent again with one that was used, it answers what that took. `gated` ('' = no queue has
-- versions): fresh work is for the current one, the first claim pins it. What is pinned to another is put there.
-- With `marks` it is sent behind a blocking read and takes what that has delivered, nothing else. The process may have
-- hung since: it takes nothing that would be a suspect if it were lost to that.
-- by     worker
-- keys   workers versions streams*
-- args   worker number count prefix claimed version gated limits* marks* given*
-- reply  list of (id stream entry fence attempt created started deadline base body entries, for a version: its pin)
-- flags  allow-oom
-- uses   enqueue contents pinned delivered
local lanes, queues, taken, bytes, ahead = {}, {}, {}, 0, #marks > 0
if ahead then
  given = delivered(worker, streams, marks, count)
  if #given == 0 then return taken end
end
local us = now_us()
local function lane_of(i) -- asked of those that matter alone: a worker may name hundreds
  local kind, queue, tail = streams[i]:sub(#prefix + 1):match('^(%a):([^:]+):(.+)$')
  lanes[i], queues[i] = kind .. ':' .. tail, queue
  return lanes[i]
end

local function answer(index, entry, id, fence, h, base)
  local body, entries, size = false, {}, 0
  if bytes < 4194304 then body, entries, size = contents(prefix, id, base) end
  bytes = bytes + size
  taken[#taken + 1] = {id, index, entry, fence, h[3], h[6], h[7], h[8] or '', base, body, entries}
  if version ~= '' then taken[#taken][12] = h[9] or '' end
end

local function take(index, entry, id)
  local head, journal = prefix .. 'i:' .. id, prefix .. 'j:' .. id
  local h = redis.call('HMGET', head,
    'status', 'at', 'attempt', 'fence', 'max', 'created', 'started', 'deadline', 'version', 'losses')
  if h[2] ~= (lanes[index] or lane_of(index)) .. '/' .. entry then return drop(streams[index], entry) end
  if h[1] ~= 'SUBMITTED' then return end
  if ahead and (tonumber(h[10] or 0) > 0 or (tonumber(h[5] or limits[index]) or 3) < 3) then return end
  local begins = h[9] == '' or not (h[4] or h[9])
  if gated ~= '' and begins then h[9] = current(versions, queues[index]) or version end
  if h[9] and h[9] ~= '' and h[9] ~= version then
    drop(streams[index], entry)
    return reroute(prefix, head, queues[index], lanes[index], id, h[9], not begins)
  end
  local text = string.format('%.0f', math.max(tonumber((h[4] or '0'):match('^%d+')) + 1, us)) -- the epoch
  local fence = text .. ':' .. worker .. ':' .. number
  local fresh = not h[3] -- nothing was ever written to its journal
  h[3] = tostring((tonumber(h[3] or nil) or 0) + 1)
  h[7] = h[7] or string.format('%.0f', math.floor(us / 1000))
  -- MessagePack by hand: two short texts behind the worker's ready-made beginning
  local base = fresh and 0 or redis.call('RPUSH', journal,
    claimed .. string.char(160 + #h[3]) .. h[3] .. string.char(160 + #text) .. text)
  redis.call('HSET', head, 'status', 'IN_PROGRESS', 'fence', fence, 'attempt', h[3], 'base', base, 'started', h[7])
  if version ~= '' and begins then redis.call('HSET', head, 'version', version) end
  if limits[index] ~= '' and not h[5] then redis.call('HSET', head, 'max', limits[index]) end
  answer(index, entry, id, fence, h, base)
end

if tonumber(redis.call('HGET', workers, worker .. '#') or 0) >= tonumber(number) then
  taken_by(number, worker, prefix, streams, answer)
  return taken
end
redis.call('HSET', workers, worker .. '#', number)
for i = 1, #given, 3 do pcall(take, tonumber(given[i]), given[i + 1], given[i + 2]) end
for i, stream in ipairs(streams) do
  local left = tonumber(count) - #taken
  if left <= 0 or ahead then break end
  local foreign = gated ~= '' and lane_of(i):sub(1, 1) == 'q' and (current(versions, queues[i]) or version) ~= version
  local read = not foreign and redis.pcall('XREADGROUP', 'GROUP', 'rd', worker, 'COUNT', left, 'STREAMS', stream, '>')
  if read and not read.err then
    for _, e in ipairs(read[1][2]) do pcall(take, i, e[1], e[2][2]) end
  end
end
return taken

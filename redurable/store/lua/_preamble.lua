-- Before every script: cursors over KEYS and ARGV (a call may carry many items), the clock, small helpers.
-- ARGV[1] is a time in us that tests may give; '' means the server's.
local key_at, arg_at = 0, 1
local function next_key() key_at = key_at + 1 return KEYS[key_at] end
local function next_arg() arg_at = arg_at + 1 return ARGV[arg_at] end
local function next_args()
  local list = {}
  for i = 1, tonumber(next_arg()) do list[i] = next_arg() end
  return list
end
local function rest_keys()
  local list = {}
  while key_at < #KEYS do list[#list + 1] = next_key() end
  return list
end

local moment_us
local function now_us()
  if not moment_us then
    if ARGV[1] ~= '' then
      moment_us = tonumber(ARGV[1])
    else
      local time = redis.call('TIME')
      moment_us = time[1] * 1000000 + time[2]
    end
  end
  return moment_us
end
local function now_ms() return math.floor(now_us() / 1000) end
-- the same as a text: Redis prints a number with %.17g, which is dear
local now_text
local function at_ms()
  now_text = now_text or string.format('%.0f', now_ms())
  return now_text
end
-- '+500' is 500 ms from now, '1700000000000' is itself
local function moment(text)
  if text:sub(1, 1) == '+' then return now_ms() + tonumber(text) end
  return tonumber(text)
end
-- What all items of a call do alike is one command, given once at the call's end: answers its words, to be added to.
local alike = {}
local function together(verb, key, group)
  local name = verb .. key
  if not alike[name] then
    alike[name] = {verb, key, group}
    alike[#alike + 1] = alike[name]
  end
  return alike[name]
end
local function drop(stream, entry)
  table.insert(together('XACK', stream, 'rd'), entry)
  table.insert(together('XDEL', stream), entry)
end
local function ended(status)
  return status == 'COMPLETED' or status == 'FAILED' or status == 'CANCELED' or status == 'TIMED_OUT'
end
-- Is `fence` the live owner of this head? nil: yes; else the word to answer.
local function refused(status, held, fence)
  if held ~= fence then return status and 'FENCED' or 'NOT_FOUND' end
  if status ~= 'IN_PROGRESS' then return 'WRONG_STATE' end
end
-- Has this attempt appended exactly k entries? nil: yes; else the word to answer.
local function miscounted(journal, base, k)
  local own = redis.call('LLEN', journal) - base
  if own > tonumber(k) then return 'DUPLICATE' end
  if own < tonumber(k) then return 'REGRESSED' end
end

-- What an attempt needs of an intent: its envelope, its journal up to 256 KiB (`base` = how long it is), their bytes.
local function contents(prefix, id, base)
  local body, entries = redis.call('GET', prefix .. 'p:' .. id), {}
  local from, bytes = 0, 0
  while tonumber(base) > 0 and bytes < 262144 do
    local part = redis.call('LRANGE', prefix .. 'j:' .. id, from, from + 63)
    for _, e in ipairs(part) do if bytes < 262144 then entries[#entries + 1], bytes = e, bytes + #e end end
    if #part < 64 then break end
    from = from + 64
  end
  return body, entries, bytes + #(body or '')
end

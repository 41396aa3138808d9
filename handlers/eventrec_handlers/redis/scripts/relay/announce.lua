-- Take note of a relay for so long, or no more; forget those whose time is over.
-- KEYS: relays of the subscription, how many shards the buffer has
-- ARGV: holder, milliseconds (0: it is gone), how many shards it serves, how many it can serve
-- Returns {how many shards the buffer has or ''}, then each relay: {holder, serves, can serve}
expect(KEYS[1], 'hash')
expect(KEYS[2], 'string')
local now, last, gone, told = clock(), 0, {}, {redis.call('GET', KEYS[2]) or ''}
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], table.concat({text(now + ARGV[2]), ARGV[2], ARGV[3], ARGV[4]}, ' '))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local till, lasts, serves, can = string.match(found[i + 1], '^(%d+) (%d+) (%d+) (%d+)$')
  if till and tonumber(till) > now then
    told[#told + 1] = {found[i], serves, can}
    if tonumber(till) > now + lasts then -- The clock went back.
      till = text(now + lasts)
      redis.call('HSET', KEYS[1], found[i], table.concat({till, lasts, serves, can}, ' '))
    end
    last = math.max(last, tonumber(till))
  else
    gone[#gone + 1] = found[i]
  end
end
in_chunks('HDEL', KEYS[1], gone)
if last > 0 then redis.call('PEXPIRE', KEYS[1], text(last - now)) end
return told

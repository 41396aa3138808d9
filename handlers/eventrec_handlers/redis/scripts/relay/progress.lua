-- How far a stage is in each log, and whether anything of what it keeps was evicted; what can be mended is.
-- KEYS: lease, meta, stage at, state, due, then at:LOG of each log
-- ARGV: token, subscription, then each log
-- Returns false where the lease is lost; else {log, next, …} and what is lost: 'place', 'state', 'due'
if not holds(KEYS[1], ARGV[1]) then return false end
known(KEYS[2])
expect(KEYS[3], 'hash')
expect(KEYS[4], 'hash')
expect(KEYS[5], 'zset')
for i = 6, #KEYS do expect(KEYS[i], 'zset') end
local found, lost, is_new = {}, {}, redis.call('EXISTS', KEYS[3]) == 0
for i = 3, #ARGV do
  local kept = redis.call('HGET', KEYS[3], ARGV[i])
  local score = redis.call('ZSCORE', KEYS[i + 3], ARGV[2])
  if score and not kept then
    kept = text(tonumber(score))
    redis.call('HSET', KEYS[3], ARGV[i], kept)
    lost.place, is_new = true, false
  elseif kept and not score then
    redis.call('ZADD', KEYS[i + 3], kept, ARGV[2])
  end
  if kept then
    found[#found + 1] = ARGV[i]
    found[#found + 1] = kept
  end
end
if not is_new then
  if redis.call('HSETNX', KEYS[4], MARK, '') == 1 then lost.state = true end
  if not redis.call('ZSCORE', KEYS[5], MARK) then lost.due = true end
end
local told = {}
for what in pairs(lost) do told[#told + 1] = what end
return {found, told}

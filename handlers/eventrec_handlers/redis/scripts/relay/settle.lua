-- Trim what all have settled; take subscriptions back into the list that is lost.
-- KEYS: meta, stream, at, subs
-- ARGV: log, '1': put what is in `at` into `subs`
-- Returns what `settle` does
if not known(KEYS[1]) then return 'gone' end
expect(KEYS[2], 'stream')
expect(KEYS[3], 'zset')
expect(KEYS[4], 'hash')
if ARGV[2] == '1' then
  for _, subscription in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    redis.call('HSETNX', KEYS[4], subscription, text(clock()))
  end
  return 'ok'
end
return settle(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1])

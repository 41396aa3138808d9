-- What the scripts of relays share: it stands behind shard.lua, before each of them. Its keys beside those of shard.lua:
--
--   lease:SUB      holder, token, until (ms), for (how many ms it lasts when it is given or renewed), done (the last commit that was made under it, so that none is made twice)
--   subs           subscription or stage → since when it is known (ms)
--   at:LOG         how far each of them is, as scores: the lowest is found without a look at the others
--   saved:SUB      log → what its holder has saved
--   stage:S:at     log → next. What it has is in at:LOG too: they change together, so one that is missing was evicted
--   stage:S:state  with the field MARK, stage:S:due with the member MARK: where it is missing, the key was evicted. That
--                  field holds what the stage has counted of its state, 'name=number …': so both are lost together. '',
--                  though the stage keeps something: that began before anything was counted
--
-- What drains a full server must not be stopped by its being full, so these scripts may be run out of memory.

local MARK = '\255'
local CHUNK = 1000
local TRIM = 1000

-- End unless what is at `key` is of that kind, or nothing: found before the first write.
local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then stop(key .. ' holds a ' .. found .. ', which is not ours') end
end

-- Whether the lease at `key` is the one with that token.
local function holds(key, token)
  expect(key, 'hash')
  return redis.call('HGET', key, 'token') == token
end

-- Call `command` on `key` with all of `values`, as many at once as Lua may pass.
local function in_chunks(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

-- Add to what a stage has counted of its state: names and numbers in turn. Before the state changes: where nothing is in
-- it, all begins at 0.
local function tally(state, changes)
  if #changes == 0 then return end
  local before, order, sums = redis.call('HGET', state, MARK) or '', {}, {}
  if redis.call('HLEN', state) <= 1 then
    before = ''
  elseif before == '' then
    return
  end
  for name, number in string.gmatch(before, '(%S+)=(%-?%d+)') do
    order[#order + 1] = name
    sums[name] = tonumber(number)
  end
  for i = 1, #changes, 2 do
    if not sums[changes[i]] then order[#order + 1] = changes[i] end
    sums[changes[i]] = (sums[changes[i]] or 0) + changes[i + 1]
  end
  for i, name in ipairs(order) do order[i] = name .. '=' .. text(sums[name]) end
  redis.call('HSET', state, MARK, table.concat(order, ' '))
end

-- What every subscription and stage has settled in a log; nil: there is none, or one that has settled nothing yet.
local function lowest(at, subs)
  local found = redis.call('ZRANGE', at, 0, 0, 'WITHSCORES')
  if not found[2] then return nil end
  local known = redis.call('HKEYS', subs)
  for first = 1, #known, CHUNK do
    local last = math.min(first + CHUNK - 1, #known)
    local scores = redis.call('ZMSCORE', at, unpack(known, first, last))
    for i = 1, last - first + 1 do
      if not scores[i] then return nil end
    end
  end
  return tonumber(found[2])
end

-- Trim what all have settled, in whole commits and at most so many; remove the log where that is all it will ever have.
-- Returns 'more' where there is more to trim, 'gone', or 'ok'.
local function settle(meta, stream, at, subs, id)
  local log = log_of(meta, id)
  if not log then return 'gone' end
  local found = redis.call('ZRANGE', at, 0, 0, 'WITHSCORES')
  if not found[2] then return 'ok' end
  local is_over = log.sealed and tonumber(found[2]) >= log.next
  if tonumber(found[2]) <= log.oldest and not is_over then return 'ok' end
  local settled = lowest(at, subs)
  if not settled then return 'ok' end
  if log.sealed and settled >= log.next then
    remove_log(meta, stream, id)
    redis.call('UNLINK', at)
    return 'gone'
  end
  if settled <= log.oldest then return 'ok' end
  if settled < log.next then
    -- Whole nodes first, as many as may be; the exact call then has but one node to look into.
    local removed = redis.call('XTRIM', stream, 'MINID', '~', text(settled + 1) .. '-0', 'LIMIT', TRIM)
    if removed > 0 and removed >= TRIM - 128 then
      look(meta, stream, id, log)
      return 'more'
    end
  end
  trim(meta, stream, id, settled)
  return 'ok'
end

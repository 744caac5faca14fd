"""The Lua scripts that do in Redis what `LocalLimiter` does in a process.

Each subject has a hash with the levels of its meters ("USED:AT" by name), and a sorted set of
leases for each gauge. A lease is "ID|NAME=UNITS,…": what it took and gives back if its worker dies.
Numbers are doubles, written with all digits.
"""

COMMON = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local job = cmsgpack.unpack(ARGV[1])
local text = function(number) return string.format('%.0f', number) end

-- The level of a charge {key, name, capacity, rate, tick, epoch, …}, and its time. The level of a
-- budget is nil if nothing is known of its epoch.
local function level(one)
  local rate, at = one[4], one[6]
  if rate > 0 then at = math.floor(now / one[5]) end
  local known = redis.call('HGET', KEYS[one[1]], one[2])
  local used, before = string.match(known or '', '^(%d+):(%d+)$')
  used, before = tonumber(used), tonumber(before)
  if not used then
    if rate > 0 then return 0, at end
    return nil, at
  end
  if at <= before then return used, before end
  if rate == 0 then return nil, at end
  return math.max(0, used - (at - before) * rate), at
end

local function set(one, used, at)
  redis.call('HSET', KEYS[one[1]], one[2], text(math.max(0, used)) .. ':' .. text(at))
end
"""

# job: {lease id, seconds of a lease, charges {key, name, capacity, rate, tick, epoch, need, wish,
# least, level if it is unknown or -1}, gauges {key of the set, key of the hash, most, places of the
# charges that are given back}, milliseconds that a hash lasts at least}.
# Returns {place of what refused or 0, now, levels…}, and if nothing refused {…, units taken…,
# leases…}. Places of charges come before those of gauges. A level of -1 is unknown.
TAKE = (
    COMMON
    + """
local charges, gauges = job[3], job[4]

-- Give back what dead workers have leased.
for _, gauge in ipairs(gauges) do
  local dead = redis.call('ZRANGEBYSCORE', KEYS[gauge[1]], '-inf', now, 'LIMIT', 0, 100)
  for _, lease in ipairs(dead) do
    redis.call('ZREM', KEYS[gauge[1]], lease)
    for name, units in string.gmatch(lease, '([%w_/]+)=(%d+)') do
      local known = redis.call('HGET', KEYS[gauge[2]], name)
      local used, at = string.match(known or '', '^(%d+):(%d+)$')
      if used then
        redis.call('HSET', KEYS[gauge[2]], name, text(math.max(0, used - units)) .. ':' .. at)
      end
    end
  end
end

local refused, levels, ats, amounts = 0, {}, {}, {}
for place, gauge in ipairs(gauges) do
  if gauge[3] >= 0 and redis.call('ZCARD', KEYS[gauge[1]]) >= gauge[3] then
    refused = #charges + place
  end
end
for place, one in ipairs(charges) do
  local used, at = level(one)
  if not used then used = one[10] end
  levels[place], ats[place] = used, at
  local left = one[3] - used
  amounts[place] = math.min(one[8], left, math.max(one[7], one[9], math.floor(left / 2)))
  if refused == 0 and (used < 0 or one[7] > left) then refused = place end
end
local answer = {tostring(refused), text(now)}
for place in ipairs(charges) do answer[#answer + 1] = text(levels[place]) end
if refused > 0 then return answer end

for place, one in ipairs(charges) do
  set(one, levels[place] + amounts[place], ats[place])
  -- Never sooner: other models of this subject may have meters that last longer.
  if redis.call('PTTL', KEYS[one[1]]) < job[5] then
    redis.call('PEXPIRE', KEYS[one[1]], text(job[5]))
  end
  answer[#answer + 1] = text(amounts[place])
end
for _, gauge in ipairs(gauges) do
  local units = {}
  for _, place in ipairs(gauge[4]) do
    units[#units + 1] = charges[place][2] .. '=' .. text(amounts[place])
  end
  local lease = job[1] .. '|' .. table.concat(units, ',')
  redis.call('ZADD', KEYS[gauge[1]], text(now + job[2] * 1000000), lease)
  redis.call('EXPIRE', KEYS[gauge[1]], 10 * job[2])
  answer[#answer + 1] = lease
end
return answer
"""
)

# ARGV: jobs {gauges {key of the set, lease}, charges {key, name, capacity, rate, tick, epoch, units
# taken, units used, place of the gauge that leased them}}. If that lease was given back, all of the
# units used are charged. An epoch that is over changes no more.
SETTLE = (
    COMMON
    + """
for _, packed in ipairs(ARGV) do
  local gauges, charges = unpack(cmsgpack.unpack(packed))
  local leased = {}
  for place, gauge in ipairs(gauges) do
    leased[place] = redis.call('ZREM', KEYS[gauge[1]], gauge[2]) == 1
  end
  for _, one in ipairs(charges) do
    local used, at = level(one)
    local change = one[8]
    if leased[one[9]] then change = one[8] - one[7] end
    if used and change ~= 0 and (one[4] > 0 or at == one[6]) then set(one, used + change, at) end
  end
end
return 1
"""
)

# KEYS: sorted sets. ARGV: seconds of a lease, then a lease of each.
RENEW = """
local time = redis.call('TIME')
local ends = time[1] * 1000000 + time[2] + ARGV[1] * 1000000
for place, key in ipairs(KEYS) do
  redis.call('ZADD', key, 'XX', string.format('%.0f', ends), ARGV[place + 1])
  redis.call('EXPIRE', key, 10 * ARGV[1])
end
return 1
"""

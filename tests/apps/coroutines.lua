-- Coroutines, closures, tables that grow and shrink, strings, weak tables and finalisers under the collector.
io.stdout:setvbuf("line")
local steps = tonumber(arg[1])

local function primes()
    local found = {}
    return coroutine.wrap(function()
        local n = 2
        while true do
            local prime = true
            for _, p in ipairs(found) do
                if p * p > n then break end
                if n % p == 0 then prime = false break end
            end
            if prime then
                found[#found + 1] = n
                coroutine.yield(n)
            end
            n = n + 1
        end
    end)
end

local finalised = 0
local mortal = { __gc = function() finalised = finalised + 1 end }
local kept, next_prime = {}, primes()
for step = 1, steps do
    local words = {}
    for i = 1, 300 do
        local p = next_prime()
        words[#words + 1] = string.format("%x", p * step % 65521)
        kept[p % 1009] = setmetatable({ p, step }, mortal)
    end
    local text = table.concat(words, " ")
    local count = select(2, text:gsub("%a%d", "%0"))
    local sum = 0
    for key, pair in pairs(kept) do sum = (sum + key * pair[1] + pair[2]) % 1000003 end
    print(step, #text, count, sum)
end
kept = nil
collectgarbage()
print("finalised", finalised)

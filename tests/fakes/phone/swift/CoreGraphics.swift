// What InstarModel.swift asks of Core Graphics, with its names and types.

import Foundation

public final class CGImage {
    public let width: Int
    public let height: Int
    let rgba: [UInt8]

    public init(rgba: [UInt8], width: Int) {
        (self.rgba, self.width, self.height) = (rgba, width, rgba.count / 4 / width)
    }
}

public final class CGColorSpace {
    public static let sRGB = "sRGB" as NSString

    public init?(name: NSString) {}
}

public enum CGImageAlphaInfo: UInt32 {
    case noneSkipLast = 5
}

public final class CGContext {
    private let data: UnsafeMutableRawPointer

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: UInt32
    ) {
        guard let data, bitsPerComponent == 8, bytesPerRow == 4 * width else { return nil }
        self.data = data
    }

    public func draw(_ image: CGImage, in rectangle: CGRect) {
        image.rgba.withUnsafeBytes { data.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    }
}
